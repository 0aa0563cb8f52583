# SPDX-License-Identifier: Apache-2.0
"""The equations of one time step of each cell, and their derivatives: one file for each cell."""
