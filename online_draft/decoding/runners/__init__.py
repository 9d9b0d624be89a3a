"""How a planned step is run on a device: `eager` in torch anywhere, `native` as compiled code on CPUs,
`graphed` as CUDA graphs."""
