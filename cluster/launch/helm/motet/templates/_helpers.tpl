{{- define "motet.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "motet.image" -}}
{{ .root.Values.image.repository }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}-{{ .class }}
{{- end }}

{{- define "motet.redisSecret" -}}
{{ default (printf "%s-redis" (include "motet.name" .)) .Values.secrets.redis }}
{{- end }}

{{- define "motet.voicesClaim" -}}
{{ default (printf "%s-voices" (include "motet.name" .)) .Values.voices.existingClaim }}
{{- end }}

{{/* Limits of connections. Behind an ingress or a load balancer all clients have its address, and the network policy guards the
metrics. */}}
{{- define "motet.edge" -}}
{{- $defaults := dict "max_connections_per_address" nil "metrics_host" "0.0.0.0" }}
{{- toYaml (mergeOverwrite $defaults (deepCopy (default dict .Values.settings.edge))) }}
{{- end }}

{{/* The port of a Redis that the chart does not make. */}}
{{- define "motet.redisPort" -}}
{{- default "6379" (regexFind "[0-9]+" (regexFind ":[0-9]+(/[^:]*)?$" .Values.redis.address)) }}
{{- end }}

{{/* The settings of the service, with what follows from the other values. */}}
{{- define "motet.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- $_ := set $settings "edge" (include "motet.edge" . | fromYaml) }}
{{- $_ := set $settings "voices" (mergeOverwrite (deepCopy (default dict $settings.voices)) (dict "folder" "/voices")) }}
{{/* Without API keys a client is an address, and all clients have that of the ingress. */}}
{{- $speech := deepCopy (default dict $settings.speech) }}
{{- $arrival := mergeOverwrite (dict "max_sessions_per_client" nil) (deepCopy (default dict $speech.arrival)) }}
{{- $_ := set $speech "arrival" $arrival }}
{{- $_ := set $settings "speech" $speech }}
{{- $security := deepCopy (default dict $settings.security) }}
{{- if .Values.ingress.enabled }}
{{- $_ := set $security "allowed_hosts" (append (default list $security.allowed_hosts) .Values.ingress.host | uniq) }}
{{- end }}
{{- if .Values.secrets.keys }}
{{- $_ := set $security "keys_file" "/keys/keys.yaml" }}
{{- end }}
{{- $_ := set $settings "security" $security }}
{{- toYaml $settings }}
{{- end }}

{{- define "motet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "motet.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}
