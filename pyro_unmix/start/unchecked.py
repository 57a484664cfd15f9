"""The functions of this room for images that `as_cube_sequence` returned, which are not looked at again.

A whole method checks its images at its own door and calls these.
"""

from pyro_unmix import start

choose_mixing = start.choose_mixing.unchecked
choose_season_start = start.choose_season_start.unchecked
choose_smooth_start = start.choose_smooth_start.unchecked
choose_start = start.choose_start.unchecked
estimate_num_endmembers = start.estimate_num_endmembers.unchecked
extract_bundles = start.extract_bundles.unchecked
extract_endmembers = start.extract_endmembers.unchecked
field_correlation = start.field_correlation.unchecked
season_share = start.season_share.unchecked
temporal_correlation = start.temporal_correlation.unchecked
