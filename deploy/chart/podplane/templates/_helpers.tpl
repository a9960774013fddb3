{{- define "podplane.labels" -}}
app.kubernetes.io/name: podplane
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "podplane.selector" -}}
app.kubernetes.io/name: podplane
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podplane.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* MiB of hugepages: an eighth more than --memory, in whole pages. */}}
{{- define "podplane.hugepages" -}}
{{- $memory := int .Values.dataplane.memory -}}
{{- $page := ternary 1024 2 (eq .Values.dataplane.hugepages.size "1Gi") -}}
{{- mul (div (sub (add $memory (div (add $memory 7) 8) $page) 1) $page) $page -}}
{{- end }}

{{/* What both DaemonSets ask of a node. */}}
{{- define "podplane.pod" -}}
hostNetwork: true
# Names are resolved as on the node: the cluster's DNS is reached through us.
dnsPolicy: Default
priorityClassName: system-node-critical
# Before everything else on a node, and for as long as the node is there: also while it is not ready, out of memory, or
# has podplane.io/not-ready.
tolerations:
  - operator: Exists
nodeSelector:
  kubernetes.io/os: linux
  kubernetes.io/arch: amd64
  {{- with .Values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
serviceAccountName: podplane-agent
# Only the agent speaks to the API server: it mounts its token itself.
automountServiceAccountToken: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Every container's: root without powers, and nothing to write but what is mounted. Capabilities come after it. */}}
{{- define "podplane.confined" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end }}

{{- define "podplane.volumes" -}}
- name: run
  hostPath:
    path: {{ .Values.runDir }}
    type: DirectoryOrCreate
- name: state
  hostPath:
    path: {{ .Values.stateDir }}
    type: DirectoryOrCreate
# /proc/sys of a container is read-only, and nothing may be mounted over it.
- name: sysctl-net
  hostPath:
    path: /proc/sys/net
    type: Directory
- name: cni-bin
  hostPath:
    path: {{ .Values.cni.binDir }}
    type: DirectoryOrCreate
- name: cni-conf
  hostPath:
    path: {{ .Values.cni.confDir }}
    type: DirectoryOrCreate
- name: credentials
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
