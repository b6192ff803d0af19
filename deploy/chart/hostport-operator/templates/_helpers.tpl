{{/* An image of ours: (list $ "shim"). */}}
{{- define "hostport.image" -}}
{{- $root := index . 0 -}}
{{- $program := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- $digest := index $image (printf "%sDigest" $program) -}}
{{- if $digest -}}
{{ printf "%s-%s@%s" $image.repository $program $digest }}
{{- else -}}
{{ printf "%s-%s:%s" $image.repository $program ($image.tag | default $root.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* What a Pod carries: name and part-of stand in the manifest. */}}
{{- define "hostport.podLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}

{{/* What an object carries that says by itself what it is part of. */}}
{{- define "hostport.releaseLabels" -}}
{{ include "hostport.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "hostport.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{ include "hostport.releaseLabels" . }}
{{- end -}}
