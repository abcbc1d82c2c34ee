//! An in-process transport and a deterministic simulator for mesh.
