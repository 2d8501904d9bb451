"""Recordings in many formats, made of the same samples."""

from __future__ import annotations

import io

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

# Of libsndfile: its name of a format and of what is inside.
SOUNDFILE = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-double": ("WAV", "DOUBLE"),
    "wav-alaw": ("WAV", "ALAW"),
    "wav-mulaw": ("WAV", "ULAW"),
    "wav-adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "wave64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
# Of ffmpeg: its name of a format, of a codec, a sampling rate, and whether there are pictures.
AV = {
    "m4a": ("ipod", "aac", 16000, False),
    "mp4": ("mp4", "aac", 44100, True),
    "mkv": ("matroska", "pcm_s16le", 16000, True),
    "webm": ("webm", "libopus", 48000, False),
    "aac": ("adts", "aac", 16000, False),
    "ts": ("mpegts", "aac", 16000, False),
    "avi": ("avi", "pcm_s16le", 16000, True),
}


def file_of(name: str, samples: NDArray[np.int16], rate: int = 16000) -> bytes:
    """The bytes of a recording of that format."""
    if name in SOUNDFILE:
        stream = io.BytesIO()
        kind, inside = SOUNDFILE[name]
        values = samples / 2.0**15 if inside in ("FLOAT", "DOUBLE") else samples
        soundfile.write(stream, values, rate, format=kind, subtype=inside)
        return stream.getvalue()
    *how, pictures = AV[name]
    return _by_av(samples, *how, pictures=pictures)


def _by_av(
    samples: NDArray[np.int16], kind: str, codec: str, rate: int, *, pictures: bool
) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        if pictures:
            video = container.add_stream("mpeg4", rate=10)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=rate)
        sound.layout = "mono"
        if pictures:
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = 0
            for packet in [*video.encode(picture), *video.encode(None)]:
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        turned = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
        queue = av.AudioFifo()
        for part in [*turned.resample(frame), *turned.resample(None)]:
            queue.write(part)
        while (
            part := queue.read(sound.codec_context.frame_size or 1024, partial=True)
        ) is not None:
            for packet in sound.encode(part):
                container.mux(packet)
        for packet in sound.encode(None):
            container.mux(packet)
    return stream.getvalue()
