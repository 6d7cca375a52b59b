// Tells Python what stands in the text area, a moment after the last key.
const PAUSE = 120;

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const area = parentElement.querySelector("textarea");
  if (!area.dataset.ready) {
    area.dataset.ready = "yes";
    area.value = data.text;
    area.maxLength = data.most;
  }
  let timer;
  area.oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(() => setStateValue("text", area.value), PAUSE);
  };
  return () => clearTimeout(timer);
}
