"""The filters of the Ansible roles, on what the real tools print."""
from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

LISTED = """\
Current ACLs for resource `ResourcePattern(resourceType=TOPIC, name=yadtq_tasks, patternType=LITERAL)`:
 \t(principal=User:yadtq, host=*, operation=READ, permissionType=ALLOW)
\t(principal=User:yadtq, host=*, operation=WRITE, permissionType=ALLOW)
\t(principal=User:other, host=*, operation=DELETE, permissionType=ALLOW)
\t(principal=User:yadtq, host=10.0.0.1, operation=ALTER, permissionType=ALLOW)
\t(principal=User:yadtq, host=*, operation=CREATE, permissionType=DENY)

Current ACLs for resource `ResourcePattern(resourceType=TOPIC, name=y, patternType=PREFIXED)`:
\t(principal=User:yadtq, host=*, operation=DESCRIBE, permissionType=ALLOW)

Current ACLs for resource `ResourcePattern(resourceType=GROUP, name=yadtq, patternType=LITERAL)`:
\t(principal=User:yadtq, host=*, operation=READ, permissionType=ALLOW)
"""


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("role_filter", ROOT / "ansible" / "roles" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_kafka_lists_is_read_as_rights() -> None:
    kafka_acls = load("kafka/filter_plugins/kafka_acls.py").FilterModule().filters()["kafka_acls"]
    assert kafka_acls(LISTED, "User:yadtq") == ["TOPIC yadtq_tasks READ", "TOPIC yadtq_tasks WRITE", "GROUP yadtq READ"]
    assert kafka_acls("", "User:yadtq") == []
