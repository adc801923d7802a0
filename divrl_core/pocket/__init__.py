"""The pocket Kontext: a procedural world of toy figures and a small real FluxKontextPipeline trained on it."""
