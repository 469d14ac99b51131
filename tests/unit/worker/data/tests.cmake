foreach(name augmentation coco_dataset data_loader decode sampler shapes_dataset transforms zip_image_source)
  muster_test(SRC unit/worker/data/${name}_test.cc LABELS unit
    DEPS muster::worker_data muster::tiny_coco muster::testing
      opencv_core opencv_imgproc opencv_imgcodecs PkgConfig::TURBOJPEG)
endforeach()
