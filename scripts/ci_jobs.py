"""Reads GitHub's answer to "list jobs of a run" (pages one after the other); prints name, status, age in seconds.

gh api --paginate repos/OWNER/NAME/actions/runs/ID/jobs | ci_jobs.py PREFIX        jobs whose name starts with PREFIX
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any


def pages(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON document of the text."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        page, at = decoder.raw_decode(text, at)
        yield page


def lines(text: str, prefix: str, now: float) -> Iterator[str]:
    """One line a job, fields between tabs."""
    for page in pages(text):
        for job in page["jobs"]:
            if job["name"].startswith(prefix):
                created = datetime.fromisoformat(job["created_at"].replace("Z", "+00:00")).timestamp()
                yield f"{job['name']}\t{job['status']}\t{int(now - created)}"


if __name__ == "__main__":
    sys.stdout.writelines(line + "\n" for line in lines(sys.stdin.read(), sys.argv[1], time.time()))
