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

{{/* What a Pod carries, whose name and part-of stand in its template. Helm adds managed-by itself, to objects that it installs. */}}
{{- define "hostport.podLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "hostport.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{ include "hostport.podLabels" . }}
{{- end -}}

{{/* Flags of a program: a dict of flag and value. One whose value is empty is left to the program. Zero is a value. */}}
{{- define "hostport.flags" -}}
{{- $lines := list -}}
{{- range $flag, $value := . -}}
{{- if kindIs "float64" $value -}}{{- $value = int64 $value -}}{{- end -}}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}{{- $lines = append $lines (printf "- %s" (printf "--%s=%v" $flag $value | toYaml)) -}}{{- end -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{/* Seconds of a duration of the values, such as 1h30m. */}}
{{- define "hostport.seconds" -}}
{{- $units := dict "h" 3600 "m" 60 "s" 1 -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $seconds = add $seconds (mul (atoi (substr 0 (int (sub (len .) 1)) .)) (index $units (trimAll "0123456789" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}
