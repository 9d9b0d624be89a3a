"""LoRA adapters of a drafter, one per segment of traffic: read, checked, stacked, merged.

The files are `peft`'s own; nothing here imports `peft`.
"""
