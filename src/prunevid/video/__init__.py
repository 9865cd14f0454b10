# SPDX-License-Identifier: Apache-2.0
"""Clips: opening, checking and sampling files, folders, images and arrays.

Importing this needs neither PyAV nor transformers: PyAV is imported when a video file is opened.
"""

from __future__ import annotations

from prunevid.video.clip import Clip
from prunevid.video.images import load_images
from prunevid.video.limits import Limits
from prunevid.video.loading import load_clip
from prunevid.video.opening import DamagedClipWarning

__all__ = ["Clip", "DamagedClipWarning", "Limits", "load_clip", "load_images"]
