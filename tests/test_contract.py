"""An independent check of the served API: a schema fuzzer finds no server error and no undocumented answer."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def fleet(start):
    start.door = start.gateway([start.engine("a", "--speed", "50"), start.engine("b", "--speed", "50")])
    return start


def test_a_schema_fuzzer_finds_no_server_error_and_no_undocumented_answer(fleet):
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
    ran = subprocess.run(
        [sys.executable.replace("python3", "python").rsplit("/", 1)[0] + "/schemathesis", "run", f"{fleet.door.url}/openapi.json",
         "--checks", checks, "--max-examples", "40", "--seed", "7", "--workers", "2", "--request-timeout", "20",
         "--suppress-health-check", "all", "--no-color"],
        capture_output=True, text=True, timeout=280,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
