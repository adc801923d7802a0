"""Adapters: the only rooms that know diffusers, transformers and peft; they hand tensors up."""
