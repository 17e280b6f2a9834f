"""Transitional."""
from napari_peftsam.annotation.session import Session
from napari_peftsam.document import *
from napari_peftsam.document import DocumentImage as AnnotatedImage, DocumentEvents as SessionEvents
