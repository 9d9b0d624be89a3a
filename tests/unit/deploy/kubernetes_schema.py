"""The part of Kubernetes' and KubeRay's (1.5) API that our manifests use, as a JSON schema of our own.

Not generated from the published schemas, so it may lag behind them or err. Fields that aren't here are
refused: misspelt ones are found.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}


def table(required: str = "", **fields: Schema) -> Schema:
    """An object of these fields; `required` names, by spaces apart, those that must be there."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def some(item: Schema) -> Schema:
    """A list that isn't empty."""
    return {"type": "array", "items": item, "minItems": 1}


def texts(value: Schema = TEXT) -> Schema:
    """A mapping of any names."""
    return {"type": "object", "additionalProperties": value}


LABELS = texts({"type": "string", "pattern": r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"})
EXPRESSIONS = some(
    table("key operator", key=TEXT, operator={"enum": ["In", "NotIn", "Exists"]}, values=some(TEXT))
)
SELECTOR = table(matchLabels=LABELS, matchExpressions=EXPRESSIONS)
METADATA = table("name", name=NAME, labels=LABELS)
KEY = table("name key", name=NAME, key=TEXT)
ENV = table("name", name=TEXT, value=TEXT, valueFrom=table("secretKeyRef", secretKeyRef=KEY))
POD_SECURITY = table(
    "runAsNonRoot seccompProfile",
    runAsNonRoot={"const": True}, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT,
    fsGroupChangePolicy={"enum": ["OnRootMismatch", "Always"]},
    seccompProfile=table("type", type={"const": "RuntimeDefault"}),
)  # fmt: skip
SECURITY = table(
    "allowPrivilegeEscalation readOnlyRootFilesystem capabilities",
    allowPrivilegeEscalation={"const": False}, readOnlyRootFilesystem={"const": True},
    capabilities=table("drop", drop={"const": ["ALL"]}),
)  # fmt: skip
PROBE = table(
    "exec periodSeconds timeoutSeconds failureThreshold",
    exec=table("command", command=some(TEXT)),
    periodSeconds=COUNT, timeoutSeconds=COUNT, failureThreshold=COUNT,
)  # fmt: skip
CONTAINER = table(
    "name image securityContext resources",
    name=NAME, image=TEXT, imagePullPolicy={"enum": ["IfNotPresent", "Always", "Never"]},
    command=some(TEXT), args=some(TEXT), env=some(ENV), securityContext=SECURITY,
    ports=some(table("name containerPort", name=NAME, containerPort=PORT)),
    resources=table("requests limits", requests=texts(QUANTITY), limits=texts(QUANTITY)),
    startupProbe=PROBE, livenessProbe=PROBE, readinessProbe=PROBE,
    volumeMounts=some(table("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)  # fmt: skip
VOLUME = table(
    "name", name=NAME,
    emptyDir=table("sizeLimit", medium={"const": "Memory"}, sizeLimit=QUANTITY),
    persistentVolumeClaim=table("claimName", claimName=NAME),
)  # fmt: skip
POD = table(
    "metadata spec",
    metadata=table("labels", labels=LABELS),
    spec=table(
        "automountServiceAccountToken securityContext containers",
        automountServiceAccountToken={"const": False}, securityContext=POD_SECURITY,
        initContainers=some(CONTAINER), containers=some(CONTAINER), volumes=some(VOLUME),
        terminationGracePeriodSeconds=COUNT,
        topologySpreadConstraints=some(table(
            "maxSkew topologyKey whenUnsatisfiable labelSelector",
            maxSkew=COUNT, topologyKey=TEXT, whenUnsatisfiable={"enum": ["ScheduleAnyway", "DoNotSchedule"]},
            labelSelector=SELECTOR,
        )),
    ),
)  # fmt: skip
CLAIM = table(
    "accessModes resources",
    accessModes=some({"enum": ["ReadWriteOnce", "ReadWriteMany"]}),
    resources=table("requests", requests=texts(QUANTITY)),
)  # fmt: skip
START = texts()
RAY_CLUSTER = table(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion=TEXT, enableInTreeAutoscaling=FLAG,
    authOptions=table("mode", mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=table(
        "redisAddress", redisAddress=TEXT, externalStorageNamespace=TEXT,
        redisPassword=table("valueFrom", valueFrom=table("secretKeyRef", secretKeyRef=KEY)),
    ),
    headGroupSpec=table(
        "rayStartParams template", serviceType={"enum": ["ClusterIP"]}, rayStartParams=START, template=POD
    ),
    workerGroupSpecs=some(table(
        "groupName rayStartParams template replicas minReplicas maxReplicas",
        groupName=NAME, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=START,
        template=POD,
    )),
)  # fmt: skip
PEER = table(podSelector=SELECTOR, namespaceSelector=SELECTOR)
ACCESS = table(**{
    "from": some(PEER),
    "ports": some(table("port protocol", port=PORT, protocol={"enum": ["TCP", "UDP"]})),
})  # fmt: skip

SPECS: dict[tuple[str, str], Schema] = {
    ("v1", "Service"): table(
        "selector ports", selector=LABELS, ports=some(table("name port", name=NAME, port=PORT))
    ),
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("apps/v1", "StatefulSet"): table(
        "serviceName selector template", serviceName=NAME, replicas=COUNT, selector=SELECTOR, template=POD,
        volumeClaimTemplates=some(table("metadata spec", metadata=METADATA, spec=CLAIM)),
    ),
    ("policy/v1", "PodDisruptionBudget"): table(
        "maxUnavailable selector", maxUnavailable=COUNT, selector=SELECTOR
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): table(
        "podSelector policyTypes", podSelector=SELECTOR, ingress=some(ACCESS),
        policyTypes=some({"enum": ["Ingress", "Egress"]}),
    ),
    ("ray.io/v1", "RayService"): table(
        "serveConfigV2 rayClusterConfig",
        upgradeStrategy=table("type", type={"enum": ["NewCluster", "None"]}),
        excludeHeadPodFromServeSvc=FLAG, serveConfigV2=TEXT, rayClusterConfig=RAY_CLUSTER,
    ),
}  # fmt: skip


def schema_of(manifest: dict[str, Any]) -> Schema:
    """The schema for a manifest's kind; KeyError for one that we don't know."""
    spec = SPECS[manifest["apiVersion"], manifest["kind"]]
    return table("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)
