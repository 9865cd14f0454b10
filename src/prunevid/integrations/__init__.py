# SPDX-License-Identifier: Apache-2.0
"""What lets other programs use this package: a folder for each."""
