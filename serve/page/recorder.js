// The microphone as a WAVE file of 16 kHz and one channel, which every server reads.

const RATE = 16000;

/** Begin to record; returns a function that ends it and gives the file. */
export async function record() {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives the microphone to pages over https or on its own machine.");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.start();
  return async () => {
    const ended = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.stop();
    stream.getTracks().forEach((track) => track.stop());
    await ended;
    const encoded = await new Blob(parts).arrayBuffer();
    // Decoding brings the samples to the context's rate.
    const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(encoded);
    return new File([wave(mono(sound))], "recording.wav", { type: "audio/wav" });
  };
}

function mono(sound) {
  const samples = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, i) => {
      samples[i] += value / sound.numberOfChannels;
    });
  }
  return samples;
}

/** The bytes of a RIFF file with 16 bits a sample. */
function wave(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) =>
    [...letters].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a sample
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => {
    view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true);
  });
  return view.buffer;
}
