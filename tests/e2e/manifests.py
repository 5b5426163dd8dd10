"""Manifests against the published schemas: Kubernetes' (kubernetes-validate), KServe's (the types of its SDK, generated from its OpenAPI), Triton's."""
import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path


def have(package) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _package_without_init(name):
    """A package whose modules can be imported one by one, without what its __init__ needs."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package


def kserve_types():
    """Finds a type of KServe's or Kubernetes' SDK by its name."""
    from kubernetes.client import models as core
    _package_without_init("kserve")
    kserve = importlib.import_module("kserve.models")
    return lambda name: getattr(kserve, name, None) or getattr(core, name)


def check_typed(find, kind, value, path="") -> list:
    """What of `value` is not of that OpenAPI type."""
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "ResourceQuantity": (str, int), "IntOrString": (str, int)}
    if kind in plain:
        return [] if isinstance(value, plain[kind]) else [f"{path}: {value!r} is no {kind}"]
    inner = re.fullmatch(r"[lL]ist\[(.*)\]", kind)
    if inner:
        return [w for i, v in enumerate(value) for w in check_typed(find, inner.group(1), v, f"{path}[{i}]")] if isinstance(value, list) else [f"{path}: no list"]
    inner = re.fullmatch(r"dict\(str, (.*)\)|Dict\[str, (.*)\]", kind)
    if inner:
        return [w for k, v in value.items() for w in check_typed(find, inner.group(1) or inner.group(2), v, f"{path}.{k}")] if isinstance(value, dict) else [f"{path}: no map"]
    if path.endswith("httpGet.port"):
        return [] if isinstance(value, (str, int)) else [f"{path}: no port"]
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {kind}"]
    cls = find(kind)
    fields = {json: cls.openapi_types[name] for name, json in cls.attribute_map.items()}
    return [f"{path}.{k}: {kind} has no such field" for k in value if k not in fields] + \
           [w for k, v in value.items() if k in fields for w in check_typed(find, fields[k], v, f"{path}.{k}")]


def check_kserve(path) -> list:
    import yaml
    document = yaml.safe_load(Path(path).read_text())
    find = kserve_types()
    wrong = [] if (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService") else ["kind"]
    return wrong + check_typed(find, "V1beta1InferenceService", document)


def check_kubernetes(path) -> list:
    import kubernetes_validate
    import yaml
    try:
        kubernetes_validate.validate(yaml.safe_load(Path(path).read_text()), kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as e:
        return [f"{path}: {e.message}"]
    return []


def check_triton(path) -> list:
    """A model's folder."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2
    folder = Path(path)
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    wrong = [] if config.name == folder.name else [f"{folder}: named {config.name}"]
    for v in config.version_policy.specific.versions:
        if not (folder / str(v) / "model.onnx").is_file():
            wrong.append(f"{folder}: version {v} is not there")
    if len((folder / config.output[0].label_filename).read_text().split()) != config.output[0].dims[0]:
        wrong.append(f"{folder}: labels")
    return wrong if list(config.version_policy.specific.versions) else wrong + ["no version is served"]
