// What is asked of the service: to add, load, unload and remove models. Each needs an admin key.

import { ask, askJson } from '../service/api.js';

const registryPath = (id) => `/v1/registry/${encodeURIComponent(id)}`;

/** Fetch a model of the catalogue, or go on where a download ended. */
export function addModel(id) {
  return askJson(registryPath(id), { json: {}, method: 'POST', admin: true });
}

/** End a download, or remove a model that is not loaded. */
export function removeModel(id) {
  return ask(registryPath(id), { method: 'DELETE', admin: true });
}

/** Load an added model. @returns {Promise<{created: number}>} */
export function loadModel(id) {
  return askJson('/v1/models', { json: { id, catalogue: id }, admin: true });
}

export function unloadModel(id) {
  return ask(`/v1/models/${encodeURIComponent(id)}`, { method: 'DELETE', admin: true });
}
