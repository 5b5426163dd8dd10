"""The dashboard through Grafana's own types and back: nothing may be lost or changed but two words that the types do not have and Grafana itself writes."""
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import ROOT, finish, test  # noqa: E402

NOT_IN_THE_TYPES = {".templating.list[].definition", ".annotations.list[].titleFormat"}


def lost(before, after, path=""):
    if isinstance(before, dict):
        for k, v in before.items():
            if isinstance(after, dict) and k in after:
                yield from lost(v, after[k], f"{path}.{k}")
            elif v not in (None, [], {}, ""):
                yield f"{path}.{k}"
    elif isinstance(before, list):
        for i, v in enumerate(before):
            yield from lost(v, after[i], f"{path}[]") if isinstance(after, list) and i < len(after) else [f"{path}[{i}]"]
    elif before != after:
        yield f"{path}: {before} became {after}"


plugins.register_default_plugins()
board = json.loads((ROOT / "report/monitoring/dashboard.json").read_text())
again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
found = set(lost(board, again))
test(f"Grafana's types take all of the dashboard's {len(board['panels'])} panels", found <= NOT_IN_THE_TYPES and len(again["panels"]) == len(board["panels"]) > 30,
     found - NOT_IN_THE_TYPES)
finish()
