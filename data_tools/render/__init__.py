"""Meshes -> view sets: any .glb, .obj or .ply through a named rig."""
