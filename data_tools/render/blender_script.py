"""Runs inside Blender: draws one mesh file from given cameras. `blender -b -P blender_script.py -- job.json`

For every view NNN it leaves NNN.png (RGBA) and, when maps are wanted, NNN.npy [height, width, 5] float32: depth along
the optical axis, the normal in the world (3), coverage. The maps come from two more renderings with one sample, whose
material glows with the quantity itself: passes would need the compositor, whose interface differs between versions.
"""

import json
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

BACKGROUND = (0.5, 0.5, 0.5, 1.0)


def main(job):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    settings(scene, job)
    light(scene)
    place(load(job["mesh"]), Matrix(job["matrix"]))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.sensor_fit, camera.data.sensor_width = "HORIZONTAL", job["sensor"]
    camera.data.clip_start, camera.data.clip_end = 0.01, 1000.0
    depth, normal = (glow(quantity) for quantity in ("depth", "normal")) if job["maps"] else (None, None)
    for view, (pose, lens) in enumerate(zip(job["poses"], job["lenses"])):  # noqa: B905 (Blender's Python may be old)
        camera.matrix_world, camera.data.lens = Matrix(pose), lens
        path = Path(job["out"]) / f"{view:03d}.png"
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "8"
        scene.cycles.samples, scene.cycles.use_denoising = job["samples"], job["denoise"]
        render(scene, path)
        if job["maps"]:
            far, facing = (measure(scene, material, path) for material in (depth, normal))
            maps = np.concatenate([far[..., :1], facing[..., :3] * 2 - 1, far[..., 3:]], axis=-1)
            np.save(path.with_suffix(".npy"), maps.astype(np.float32))


def settings(scene, job):
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.diffuse_bounces = scene.cycles.glossy_bounces = 1
    scene.cycles.transparent_max_bounces = scene.cycles.transmission_bounces = 3
    scene.cycles.filter_width = 0.01
    scene.render.film_transparent = True
    scene.render.resolution_x, scene.render.resolution_y = job["size"]
    scene.render.resolution_percentage = 100
    scene.render.threads_mode, scene.render.threads = "FIXED", job["threads"]
    scene.view_settings.view_transform = "Standard"


def light(scene):
    world = scene.world = bpy.data.worlds.new("world")
    world.use_nodes = True
    background = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = BACKGROUND
    background.inputs["Strength"].default_value = 1.0


def load(path):
    """The objects of a file, in Blender's axes for it: z up for .glb, as they stand for others."""
    suffix = Path(path).suffix.lower()
    if suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=path)
    elif suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=path, forward_axis="Y", up_axis="Z")
    elif hasattr(bpy.types, "WM_OT_ply_import"):  # since Blender 4.0
        bpy.ops.wm.ply_import(filepath=path, forward_axis="Y", up_axis="Z")
    else:
        bpy.ops.import_mesh.ply(filepath=path)
    found = list(bpy.context.scene.objects)
    for item in found:
        if item.type in ("LIGHT", "CAMERA"):
            bpy.data.objects.remove(item)
    return list(bpy.context.scene.objects)


def place(objects, matrix):
    root = bpy.data.objects.new("normalisation", None)
    bpy.context.scene.collection.objects.link(root)
    for item in objects:
        if item.parent is None:
            item.parent = root
    root.matrix_world = matrix


def glow(quantity):
    """A material that shines with the depth along the optical axis, or with the normal coded as (n + 1) / 2."""
    material = bpy.data.materials.new(quantity)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    emission, output = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeOutputMaterial")
    if quantity == "depth":
        links.new(nodes.new("ShaderNodeCameraData").outputs["View Z Depth"], emission.inputs["Color"])
    else:
        code = nodes.new("ShaderNodeVectorMath")
        code.operation = "MULTIPLY_ADD"
        code.inputs[1].default_value = code.inputs[2].default_value = (0.5, 0.5, 0.5)
        links.new(nodes.new("ShaderNodeNewGeometry").outputs["Normal"], code.inputs[0])
        links.new(code.outputs["Vector"], emission.inputs["Color"])
    links.new(emission.outputs["Emission"], output.inputs["Surface"])
    return material


def measure(scene, material, path):
    """One rendering [height, width, 4] in which everything is made of `material`, rows from above."""
    layer = scene.view_layers[0]
    layer.material_override = material
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "32"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    exr = path.with_suffix(".exr")
    render(scene, exr)
    layer.material_override = None
    image = bpy.data.images.load(str(exr))
    image.colorspace_settings.name = "Non-Color"
    values = np.array(image.pixels[:], dtype=np.float32).reshape(image.size[1], image.size[0], 4)[::-1]
    bpy.data.images.remove(image)
    return values


def render(scene, path):
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    with open(sys.argv[sys.argv.index("--") + 1], encoding="utf-8") as file:  # noqa: PTH123 (Blender's Python)
        main(json.load(file))
