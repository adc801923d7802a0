"""Reward backbones: pictures in, dense features out."""
