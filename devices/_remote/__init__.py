"""Boards and phones behind ssh and adb."""
