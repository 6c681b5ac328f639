"""cDAL: a conditional denoising-diffusion GAN for medical image segmentation. Pure PyTorch; import its modules by name."""
