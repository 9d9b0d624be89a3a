"""How adapters are made: LoRA on a frozen drafter with `peft`, on records of one segment."""
