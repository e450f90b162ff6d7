# SPDX-License-Identifier: MIT OR Apache-2.0
"""ElasticTok as its authors released it (arXiv 2410.08368): checkpoints, model, searches, and export to bundles.

Numbers follow the official code at github LargeWorldModel/ElasticTok a175cdb8; docs/official-checkpoints.md has the commands
and every deviation measured."""
