# SPDX-License-Identifier: Apache-2.0
"""The command line, `ns-diff3r`: one small module a command."""
