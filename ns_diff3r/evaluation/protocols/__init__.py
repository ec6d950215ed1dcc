# SPDX-License-Identifier: Apache-2.0
"""The paper's evaluations: which views of which scenes, every row before and after optimisation, one table."""
