# SPDX-License-Identifier: Apache-2.0
"""Metrics of images, and how well predictions do before and after test-time optimisation."""
