{{- define "captcha-worker.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "captcha-worker.selector" -}}
app.kubernetes.io/name: captcha-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "captcha-worker.labels" -}}
{{ include "captcha-worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "captcha-worker.opsPort" -}}
{{- splitList ":" .Values.settings.ops.listen | last -}}
{{- end -}}

{{- define "captcha-worker.callbackPort" -}}
{{- splitList ":" ((.Values.settings.callback | default dict).listen | default "") | last -}}
{{- end -}}

{{- /* A map as TOML. JSON's strings, numbers, booleans and lists are TOML's too. Takes path and table. */ -}}
{{- define "captcha-worker.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "captcha-worker.tomlKey" $key }} = {{ toJson $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $inner := append $path (include "captcha-worker.tomlKey" $key) }}
[{{ join "." $inner }}]
{{- include "captcha-worker.toml" (dict "path" $inner "table" $value) }}
{{ end -}}
{{- end -}}
{{- end -}}

{{- define "captcha-worker.tomlKey" -}}
{{- ternary . (toJson .) (regexMatch "^[A-Za-z0-9_-]+$" .) -}}
{{- end -}}

{{- define "captcha-worker.settings" -}}
{{- include "captcha-worker.toml" (dict "path" (list) "table" .Values.settings) | trim -}}
{{- end -}}
