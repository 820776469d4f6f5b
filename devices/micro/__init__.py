"""Microcontrollers: `micro:NAME`. tflite-micro's interpreter on this host tells arena and outputs; nothing is timed."""

from .device import OWN_RUNTIMES, REFERENCES, REQUIRES, RUNTIMES, SCHEME, SOURCE, describe, run

__all__ = ["OWN_RUNTIMES", "REFERENCES", "REQUIRES", "RUNTIMES", "SCHEME", "SOURCE", "describe", "run"]
