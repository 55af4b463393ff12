"""Neural networks trained together: every update leaves a department inside a secure sum, with differential privacy where it is asked for.

    spec          torch module <-> declared layers and safetensors bytes
    features      a department's columns -> arrays
    network       a network whose parameters lie in one vector; its loss and its metric
    clipping      the sum of clipped per-record gradients
    dpsgd         Poisson samples, the grid, the noise: one step of DP-SGD
    local         one department's training in one round
    encoding      an update and a metric -> words of a secure sum, and back
    participant   a department's side: each round answered once, rows set aside for validation
    strategies    the joint update -> the next weights
    training      the coordinator's side: rounds, early stopping, checkpoints
    history       learning curves

What a training asks is `sandbox.training.Training`; which guarantee it has, and for whom, is said there.
"""
