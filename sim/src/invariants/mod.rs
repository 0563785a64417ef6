//! I1 to I10, one small file each.
