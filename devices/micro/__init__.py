"""Microcontrollers: `micro:NAME`. tflite-micro's interpreter on this host tells arena and outputs; nothing is timed."""

from .device import REQUIRES, SCHEME, TRAITS, describe, run

__all__ = ["REQUIRES", "SCHEME", "TRAITS", "describe", "run"]
