"""The catalogue: networks by name, official configurations, weights.

    names()                              what `build` knows
    check_name(name)                     whether it does
    configure(name, **overrides)         its checked arguments, without the network
    build(name, **overrides)             a network with the initial values of seed 0
    from_official(network_g, **overrides)  the same from an official options block
    initialise(model, seed)              the initial values of another seed
    load_weights(model, path_or_state)   strict
    weights_hash(model_or_path)          SHA-256, equal for a network and its file
    precision(name, device)              the context to run it in
    capabilities_of(network)             what it declares that it can do
    Experiment(classes, order)           what stands in for a network's own classes and order (`network.experiment`)
    scan.attentive_scan(u, delta, ...)   the scan alone

Networks are called with (image [B, C, H, W] in 0..1, labels=None); `model.configuration` is what rebuilds them.

What is listed here is imported when it is first used: names alone must not wait for torch. A submodule therefore never
has the name of a function of this list.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "capabilities": ["Capabilities", "capabilities_of"],
        "checkpoints": ["load_weights", "weights_hash"],
        "errors": ["ModelError"],
        "experiment": ["Experiment"],
        "initial": ["initialise"],
        "ops": ["scan"],
        "ops.common.precision": ["precision", "unsupported"],
        "registry": ["build", "check_name", "configure", "from_official", "names", "official_config"],
    },
)
