# SPDX-License-Identifier: Apache-2.0
"""One HTML page that shows what became of a clip's tokens: whole in itself, without network and without scripts."""

from __future__ import annotations

from prunevid.view.reports.facts import facts_of
from prunevid.view.reports.pages import attention_report, compare_report, report

__all__ = ["attention_report", "compare_report", "facts_of", "report"]
