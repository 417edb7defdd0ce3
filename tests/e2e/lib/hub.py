"""The upstream: the test kit's `larder-hub`, which makes a Docker Hub out of the origin, counts, and misbehaves on demand."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import http
from .process import Daemon, free_port, wait_until

#: The user who may read the private image. The password is a canary as well: it may be in no log.
ALICE = "alice"
PASSWORD = f"canary-password-{secrets.token_hex(8)}"
