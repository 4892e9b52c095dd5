// A page without images to choose.

root.dataset.ready = "yes";
