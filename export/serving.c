/* Templates of what a server reads. `@key@` in a template is replaced; names are small letters, digits and dashes, so nothing needs quoting. */
#include "export/serving.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define MAX_BATCH 64
#define LABEL_MAX 63                 /* of a DNS label, which names of services are */

/* ---- Triton ---- */
void serving_config(const struct served *s, struct page *p)
{
    page_add(p, "name: \"%s\"\nbackend: \"onnxruntime\"\nmax_batch_size: %d\n", s->folder, MAX_BATCH);
    page_add(p, "input [ { name: \"input\" data_type: TYPE_FP32 dims: [ %lld, %lld, %lld ] } ]\n", (long long)s->channels, (long long)s->height, (long long)s->width);
    page_add(p, "output [ { name: \"logits\" data_type: TYPE_FP32 dims: [ %lld ] label_filename: \"labels.txt\" } ]\n", (long long)s->classes);
    page_add(p, "version_policy { specific { versions: [ %lld ] } }\n", (long long)s->version);
    page_add(p, "dynamic_batching { preferred_batch_size: [ 8, %d ] max_queue_delay_microseconds: 500 }\n", MAX_BATCH);
    page_add(p, "instance_group [ { kind: KIND_CPU count: 1 } ]\n");
    /* Level 1 is ONNX Runtime's basic and extended optimizations: without them nothing is fused to integer operations. */
    page_add(p, "optimization { graph { level: 1 } }\n");
    page_add(p, "parameters { key: \"intra_op_thread_count\" value: { string_value: \"1\" } }\n");
    page_add(p, "model_warmup [ { name: \"random\" batch_size: 1 inputs { key: \"input\" "
                "value: { data_type: TYPE_FP32 dims: [ %lld, %lld, %lld ] random_data: true } } } ]\n",
             (long long)s->channels, (long long)s->height, (long long)s->width);
}

void serving_labels(const struct served *s, struct page *p)
{
    for (int64_t i = 0; i < s->classes; i++)
        page_add(p, "%lld\n", (long long)i);
}

/* ---- Kubernetes, KServe, Docker ---- */
#define METADATA \
    "metadata:\n" \
    "  name: \"@object@\"\n" \
    "  labels: {app.kubernetes.io/name: \"@object@\", app.kubernetes.io/version: \"@version@\", app.kubernetes.io/managed-by: viaduct}\n"

static const struct template { const char *file, *text; } templates[] = {
    /* A pod counts as ready when the version asked for answers, is sent nothing new before it ends, and there is never one fewer than wanted: a roll-out
     * drops no request. How many there are is the autoscaler's alone, so no `replicas`. */
    {"deployment.yaml",
     "# The image is what the Dockerfile beside this builds; with one of your registry: kustomize edit set image @object@=HOST/@object@:@version@\n"
     "apiVersion: apps/v1\n"
     "kind: Deployment\n" METADATA
     "spec:\n"
     "  selector: {matchLabels: {app.kubernetes.io/name: \"@object@\"}}\n"
     "  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}\n"
     "  template:\n"
     "    metadata:\n"
     "      labels: {app.kubernetes.io/name: \"@object@\", app.kubernetes.io/version: \"@version@\"}\n"
     "      annotations: {viaduct/model-sha256: \"@sha256@\", prometheus.io/scrape: \"true\", prometheus.io/port: \"8002\"}\n"
     "    spec:\n"
     "      automountServiceAccountToken: false\n"
     "      terminationGracePeriodSeconds: 60\n"
     "      securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, seccompProfile: {type: RuntimeDefault}}\n"
     "      containers:\n"
     "        - name: triton\n"
     "          image: \"@object@:@version@\"\n"
     "          args: [\"--model-repository=/models\", \"--exit-timeout-secs=40\"]\n"
     "          ports: [{name: http, containerPort: 8000}, {name: grpc, containerPort: 8001}, {name: metrics, containerPort: 8002}]\n"
     "          startupProbe: {httpGet: {path: /v2/health/live, port: http}, periodSeconds: 2, failureThreshold: 60}\n"
     "          readinessProbe: {httpGet: {path: /v2/models/@folder@/versions/@version@/ready, port: http}, periodSeconds: 2, timeoutSeconds: 2}\n"
     "          livenessProbe: {httpGet: {path: /v2/health/live, port: http}, periodSeconds: 10, timeoutSeconds: 5}\n"
     "          lifecycle: {preStop: {exec: {command: [sleep, \"5\"]}}}\n"
     "          resources: {requests: {cpu: \"1\", memory: 1Gi}, limits: {memory: 2Gi}}\n"
     "          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}\n"
     "          volumeMounts: [{name: tmp, mountPath: /tmp}, {name: shm, mountPath: /dev/shm}]\n"
     "      volumes: [{name: tmp, emptyDir: {}}, {name: shm, emptyDir: {medium: Memory, sizeLimit: 256Mi}}]\n"},
    {"service.yaml",
     "apiVersion: v1\n"
     "kind: Service\n" METADATA
     "spec:\n"
     "  selector: {app.kubernetes.io/name: \"@object@\"}\n"
     "  ports: [{name: http, port: 8000, targetPort: http}, {name: grpc, port: 8001, targetPort: grpc}]\n"},
    {"hpa.yaml",
     "apiVersion: autoscaling/v2\n"
     "kind: HorizontalPodAutoscaler\n" METADATA
     "spec:\n"
     "  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: \"@object@\"}\n"
     "  minReplicas: 2\n"
     "  maxReplicas: 8\n"
     "  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]\n"
     "  behavior: {scaleDown: {stabilizationWindowSeconds: 300}}\n"},
    {"pdb.yaml",
     "apiVersion: policy/v1\n"
     "kind: PodDisruptionBudget\n" METADATA
     "spec:\n"
     "  selector: {matchLabels: {app.kubernetes.io/name: \"@object@\"}}\n"
     "  minAvailable: 1\n"},
    /* Triton polls the volume: a promote that re-renders it needs no new pod. */
    {"inferenceservice.yaml",
     "# storageUri: a volume claim `models` whose root is the folder that triton/ lies in\n"
     "apiVersion: serving.kserve.io/v1beta1\n"
     "kind: InferenceService\n" METADATA
     "  annotations: {viaduct/model-sha256: \"@sha256@\"}\n"
     "spec:\n"
     "  predictor:\n"
     "    minReplicas: 2\n"
     "    maxReplicas: 8\n"
     "    model:\n"
     "      modelFormat: {name: onnx}\n"
     "      protocolVersion: v2\n"
     "      runtime: kserve-tritonserver\n"
     "      storageUri: \"pvc://models/triton\"\n"
     "      args: [\"--model-control-mode=poll\", \"--repository-poll-secs=5\"]\n"
     "      readinessProbe: {httpGet: {path: /v2/health/ready, port: 8080}, periodSeconds: 2}\n"
     "      resources: {requests: {cpu: \"1\", memory: 1Gi}, limits: {cpu: \"2\", memory: 2Gi}}\n"
     "      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n"},
    {"Dockerfile",
     "# docker build -f @dockerfile@ -t @object@:@version@ .   in the folder that triton/ lies in\n"
     "FROM nvcr.io/nvidia/tritonserver:25.01-py3\n"
     "LABEL org.opencontainers.image.title=\"@object@\" org.opencontainers.image.version=\"@version@\" viaduct.model.sha256=\"@sha256@\"\n"
     "COPY --chown=1000:1000 triton/@folder@/config.pbtxt triton/@folder@/labels.txt /models/@folder@/\n"
     "COPY --chown=1000:1000 triton/@folder@/@version@ /models/@folder@/@version@\n"
     "USER 1000:1000\n"
     "EXPOSE 8000 8001 8002\n"
     "HEALTHCHECK CMD [\"curl\", \"-fsS\", \"http://localhost:8000/v2/health/ready\"]\n"
     "ENTRYPOINT [\"tritonserver\"]\n"
     "CMD [\"--model-repository=/models\"]\n"},
};

/* A name that Kubernetes takes for a service: begins with a letter, ends with none of the dashes that ours may. */
static void object_name(const char *model, char out[LABEL_MAX + 1])
{
    snprintf(out, LABEL_MAX + 1, "%s%s", isalpha((unsigned char)*model) ? "" : "model-", model);
    for (size_t n = strlen(out); n && out[n - 1] == '-'; n--)
        out[n - 1] = '\0';
}

static void fill(const struct served *s, const char *template, struct page *p)
{
    char object[LABEL_MAX + 1], version[24];
    object_name(s->model, object);
    snprintf(version, sizeof version, "%lld", (long long)s->version);
    const struct { const char *key, *value; } values[] = {{"@object@", object}, {"@folder@", s->folder}, {"@version@", version}, {"@sha256@", s->sha256},
                                                          {"@dockerfile@", s->dockerfile}};
    for (const char *at; (at = strchr(template, '@'));) {
        unsigned k = 0;
        while (k < ARRAY_LEN(values) && strncmp(at, values[k].key, strlen(values[k].key)) != 0)
            k++;
        CHECK(k < ARRAY_LEN(values));
        page_add(p, "%.*s%s", (int)(at - template), template, values[k].value);
        template = at + strlen(values[k].key);
    }
    page_add(p, "%s", template);
}

const char *serving_manifest(const struct served *s, unsigned i, struct page *p)
{
    if (i == ARRAY_LEN(templates))
        return NULL;
    fill(s, templates[i].text, p);
    return templates[i].file;
}

int serving_write(const struct served *s, const char *dir, struct err *err)
{
    struct page p = {0};
    const char *name;
    TRY(fs_mkdirs(&fs_real, dir, err));
    for (unsigned i = 0; (name = serving_manifest(s, i, &p)); i++)
        TRY(page_publish(&p, dir, name, err));
    return 0;
}
