"""What the deployment's tests decide without a host: ansible's recap, the report, what a transcript leaves out."""
from __future__ import annotations

import pytest

from tests.deploy.cluster import Played
from tests.deploy.report import Report
from tests.deploy.stage import short_transcript

OUTPUT = """
PLAY [Kafka] ********************************************************************
TASK [kafka : Package] **********************************************************
ok: [host1]
changed: [host2] => (item=java)
TASK [kafka : Nothing to do] ****************************************************
skipping: [host1]
ok: [host2]
PLAY RECAP **********************************************************************
host1                      : ok=12   changed=0    unreachable=0    failed=0    skipped=3
host2                      : ok=12   changed=4    unreachable=0    failed=1    skipped=3
"""


def test_the_recap_is_counted_over_all_hosts() -> None:
    played = Played.of(OUTPUT, 3.5, 2)
    assert (played.changed, played.failed, played.hosts) == (4, 1, {"host1": 0, "host2": 4})
    assert Played.of("no recap: it broke off", 1.0, 4).hosts == {}


def test_a_transcript_keeps_what_was_done_under_its_title() -> None:
    assert short_transcript(OUTPUT).splitlines()[:3] == ["PLAY [Kafka]", "TASK [kafka : Package]",
                                                        "changed: [host2] => (item=java)"]
    assert "Nothing to do" not in short_transcript(OUTPUT)


def test_a_figure_beyond_its_limit_fails_and_is_told() -> None:
    report = Report()
    report.figure("fast", 9.99, limit=10)
    with pytest.raises(AssertionError, match=r"slow: 10\.01 s, and 10 is the limit"):
        report.figure("slow", 10.01, limit=10)
    page = report.markdown("T", "I")
    assert "| fast | 9.99 s | 10 s |" in page
    assert "| slow | 10.01 s | 10 s |" in page


def test_no_password_gets_into_the_page() -> None:
    report = Report()
    report.transcript("t", "redis_password: hunter2\nKAFKA_SECRET=hunter2 \npassword hunters")
    assert "hunter2" not in report.markdown("T", "I")


def test_tests_are_told_as_sentences() -> None:
    report = Report(results=[("tests/deploy/test_x.py::test_a_host_dies[one]", "passed", 1.25)])
    assert "| A host dies[one] | passed | 1.2 |" in report.markdown("T", "I")
