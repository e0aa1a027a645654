//! Hostile bytes: the properties of the fuzz targets, held against their seeded corpora and against
//! strategies that build what is nearly right.

mod nearly;
mod properties;
mod seeds;
