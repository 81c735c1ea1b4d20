"""What nnU-Net loads: presets, planners and a trainer; knows nothing of the other packages.

``nnUNet_extTrainer`` may point at this folder: nnU-Net then imports every module here by its bare
name, hence no relative imports, and no import of the package itself while a module loads.
"""
