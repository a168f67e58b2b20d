"""Runs inside Blender: draws one mesh file from given cameras. `blender -b -P blender_script.py -- job.json`

For every view NNN it leaves NNN.png (RGBA) and, when maps are wanted, NNN.npy [height, width, 5] float32: depth along
the optical axis, the normal in the world (3), coverage. The maps come from two more renderings with one sample, whose
material glows with the quantity itself: passes would need the compositor, whose interface differs between versions.
It imports nothing of this project: Blender's Python has Blender's modules only. Tried with bpy 4.2 and Debian's 3.4.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

if not hasattr(np, "bool"):
    np.bool = bool  # numpy 1.24 lacks it, and the glTF importer of Blender 3.4, beside which Debian puts that, wants it

BACKGROUND = (0.5, 0.5, 0.5, 1.0)
BOUNDS_TOLERANCE = 2e-3  # of an object whose longest side is 1


def main(job):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    settings(scene, job)
    light(scene)
    objects = load(job["mesh"])
    meshes = [item for item in objects if item.type == "MESH"]
    drop_missing_pictures(meshes)
    paint(meshes, job["gray"])
    place(objects, Matrix(job["matrix"]))
    check_bounds(meshes, np.array(job["bounds"]))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.sensor_fit, camera.data.sensor_width = "HORIZONTAL", job["sensor"]
    camera.data.clip_start, camera.data.clip_end = 0.01, 1000.0
    paths = [Path(job["out"]) / f"{view:03d}.png" for view in range(len(job["poses"]))]

    def each_view():
        for path, pose, lens in zip(paths, job["poses"], job["lenses"]):  # noqa: B905 (Blender's Python may be old)
            camera.matrix_world, camera.data.lens = Matrix(pose), lens
            yield path

    for path in each_view():
        picture(scene, path, job)
    if job["maps"]:  # one quantity after the other, so that Cycles prepares a large mesh three times in all
        depths, normals = (
            [measure(scene, material, path) for path in each_view()] for material in (glow("depth"), glow("normal"))
        )
        for path, far, facing in zip(paths, depths, normals):  # noqa: B905
            maps = np.concatenate([far[..., :1], facing[..., :3] * 2 - 1, far[..., 3:]], axis=-1)
            np.save(path.with_suffix(".npy"), maps.astype(np.float32))


def settings(scene, job):
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.diffuse_bounces = scene.cycles.glossy_bounces = 1
    scene.cycles.transparent_max_bounces = scene.cycles.transmission_bounces = 3
    scene.cycles.filter_width = 0.01
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True  # what Cycles prepared of the mesh serves the next view too
    scene.render.resolution_x, scene.render.resolution_y = job["size"]
    scene.render.resolution_percentage = 100
    scene.render.threads_mode, scene.render.threads = "FIXED", job["threads"]
    scene.render.dither_intensity = 0.0  # noise, which would also lie in transparent pixels
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
    elif bpy.app.version >= (4, 0, 0):
        bpy.ops.wm.ply_import(filepath=path, forward_axis="Y", up_axis="Z")
    else:
        bpy.ops.import_mesh.ply(filepath=path)
    found = list(bpy.context.scene.objects)
    for item in found:
        if item.type in ("LIGHT", "CAMERA"):
            bpy.data.objects.remove(item)
    return list(bpy.context.scene.objects)


def paint(meshes, gray):
    """Give what has no material one of its vertex colours, or gray: importers of .ply and .obj leave those unused."""
    for item in meshes:
        if any(slot.material for slot in item.material_slots):
            continue
        material = bpy.data.materials.new("plain")
        material.use_nodes = True
        tree = material.node_tree
        color = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED").inputs["Base Color"]
        color.default_value = (gray, gray, gray, 1.0)
        if len(item.data.color_attributes):
            source = tree.nodes.new("ShaderNodeVertexColor")
            source.layer_name = item.data.color_attributes[0].name
            tree.links.new(source.outputs["Color"], color)
        item.data.materials.clear()
        item.data.materials.append(material)


def drop_missing_pictures(meshes):
    """Materials without the pictures that could not be read, in whose place Blender would shine magenta."""
    for material in {slot.material for item in meshes for slot in item.material_slots if slot.material}:
        for node in list(material.node_tree.nodes) if material.use_nodes else []:
            if node.type == "TEX_IMAGE" and (node.image is None or not node.image.size[0]):
                material.node_tree.nodes.remove(node)


def check_bounds(meshes, expected):
    """Raises ValueError where Blender sees another object than our reader normalised (a posed skeleton, say)."""
    graph = bpy.context.evaluated_depsgraph_get()
    points = [corners(item.evaluated_get(graph)) for item in meshes if len(item.data.polygons)]
    if not sum(map(len, points)):
        raise ValueError("Blender finds no faces in it")
    points = np.concatenate(points)
    found = np.array([points.min(0), points.max(0)])
    if not np.abs(found - expected).max() <= BOUNDS_TOLERANCE * (expected[1] - expected[0]).max():
        (a, b), (c, d) = found.round(3).tolist(), expected.round(3).tolist()
        raise ValueError(f"Blender sees an object from {a} to {b}, our reader one from {c} to {d}; use engine=cpu")


def corners(item):
    """The corners in the world [n, 3] of all faces that have an area."""
    mesh = item.to_mesh()
    mesh.calc_loop_triangles()
    triangles = mesh.loop_triangles
    faces, areas = np.empty(len(triangles) * 3, np.int32), np.empty(len(triangles), np.float32)
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    triangles.foreach_get("vertices", faces)
    triangles.foreach_get("area", areas)
    mesh.vertices.foreach_get("co", points)
    used = np.unique(faces.reshape(-1, 3)[areas != 0])
    world = np.array(item.matrix_world)
    return points.reshape(-1, 3)[used].astype(np.float64) @ world[:3, :3].T + world[:3, 3]


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
    # It lights nothing: Cycles would list every triangle as a lamp.
    if hasattr(material.cycles, "emission_sampling"):  # since Blender 3.5
        material.cycles.emission_sampling = "NONE"
    else:
        material.cycles.sample_as_light = False
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


def picture(scene, path, job):
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "8"
    scene.cycles.samples, scene.cycles.use_denoising = job["samples"], job["denoise"]
    render(scene, path)


def measure(scene, material, path):
    """One rendering [height, width, 4] in which everything is made of `material`, rows from above."""
    scene.view_layers[0].material_override = material
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "32"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    exr = path.with_suffix(".exr")
    render(scene, exr)
    image = bpy.data.images.load(str(exr))
    image.colorspace_settings.name = "Non-Color"
    values = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(values)
    values = values.reshape(image.size[1], image.size[0], 4)[::-1]
    bpy.data.images.remove(image)
    return values


def render(scene, path):
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


def run():
    """The exit code; what went wrong is the last line of stderr."""
    try:
        with open(sys.argv[sys.argv.index("--") + 1], encoding="utf-8") as file:  # noqa: PTH123 (Blender's Python)
            main(json.load(file))
    except Exception as error:
        traceback.print_exc()
        # An operator's error is a whole traceback, and ends with where it was called.
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Location:")]
        print(lines[-1] if lines else type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # bpy 4.2's glTF importer crashes Python when it ends in order
