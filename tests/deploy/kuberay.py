"""A strict model of what the manifests use of KubeRay's resources (ray.io/v1) and of pods: a field that is not here is a mistake.

Names and types are those of KubeRay's Go types, `ray-operator/apis/ray/v1/*_types.go`, and of Kubernetes' core/v1.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str | None = Field(None, pattern=r"^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$")  # KubeRay appends to it
    generateName: str | None = Field(None, pattern=r"^[a-z0-9][-a-z0-9]{0,36}$")  # Kubernetes appends five characters
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _one(self):
        assert (self.name is None) != (self.generateName is None), "one of name and generateName"
        return self


class SecretKey(Strict):
    name: str
    key: str


class ValueFrom(Strict):
    secretKeyRef: SecretKey


class Env(Strict):
    name: str
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Port(Strict):
    containerPort: int = Field(ge=1, le=65535)
    name: str = Field(max_length=15)


class Resources(Strict):
    requests: dict[str, str]
    limits: dict[str, str]


class Mount(Strict):
    name: str
    mountPath: str = Field(pattern="^/")


class Container(Strict):
    name: str
    image: str
    ports: list[Port] = []
    env: list[Env] = []
    resources: Resources
    volumeMounts: list[Mount] = []


class Claim(Strict):
    claimName: str


class Volume(Strict):
    name: str
    persistentVolumeClaim: Claim | None = None
    emptyDir: dict | None = None


class PodSpec(Strict):
    restartPolicy: Literal["Never"]  # as autoscaler v2 wants it
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []


class Template(Strict):
    spec: PodSpec


class Head(Strict):
    rayStartParams: dict[str, str]
    template: Template


class Workers(Strict):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: Template


class Auth(Strict):
    mode: Literal["token", "disabled"]


class Autoscaler(Strict):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: int | None = None


class ClusterSpec(Strict):
    rayVersion: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: Head
    workerGroupSpecs: list[Workers] = Field(min_length=1)


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class ServiceSpec(Strict):
    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: ServiceSpec


class JobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = 0
    rayClusterSpec: ClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


KINDS = {kind.__name__: kind for kind in (RayCluster, RayService, RayJob)}


def cluster_of(resource: RayCluster | RayService | RayJob) -> ClusterSpec:
    """The cluster that a resource is about."""
    spec = resource.spec
    return spec if isinstance(spec, ClusterSpec) else getattr(spec, "rayClusterConfig", None) or spec.rayClusterSpec
