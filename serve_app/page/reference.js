// The API's reference at /docs. Swagger UI would ask a server of its own whether the document is valid; it does not here.

window.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  onComplete: () => {
    document.body.dataset.ready = 'true'
  },
})
