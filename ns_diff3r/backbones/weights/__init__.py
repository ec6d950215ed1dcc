# SPDX-License-Identifier: Apache-2.0
"""Published weights: what there is, where it comes from, under which terms, and how it is read without running code."""
