"""Tests of the nodes inside a real ComfyUI."""
