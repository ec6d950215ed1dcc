# SPDX-License-Identifier: Apache-2.0
"""Training through test-time optimisation, in pure torch: the step, its settings, optimisers and checkpoints."""
