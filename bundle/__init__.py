"""The bundle: its manifest, the folder, one packed file, recorded answers."""

from __future__ import annotations

from seq2edge.bundle.folder import Bundle as Bundle
from seq2edge.bundle.folder import BundleWriter as BundleWriter
from seq2edge.bundle.folder import describe as describe
from seq2edge.bundle.folder import read_manifest as read_manifest
from seq2edge.bundle.folder import summarize as summarize
