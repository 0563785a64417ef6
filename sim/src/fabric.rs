//! The network between places, with faults per link and direction.
